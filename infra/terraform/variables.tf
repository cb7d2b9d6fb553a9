variable "name" {
  description = "Begins the names of roles and queues."
  type        = string
  default     = "tuneline"
}

variable "region" {
  description = "Where everything lies."
  type        = string
}

variable "registry_bucket" {
  description = "Bucket of the registry and the corpus: TUNELINE_REGISTRY is s3://BUCKET/PREFIX."
  type        = string
}

variable "registry_prefix" {
  description = "Prefix in it, without a slash at its ends."
  type        = string
  default     = "registry"

  validation {
    condition     = can(regex("^[^/*?]+(/[^/*?]+)*$", var.registry_prefix))
    error_message = "Give a prefix such as registry, without a slash at its ends, without * and ?."
  }
}

variable "landing_bucket" {
  description = "Bucket in which new rows land: TUNELINE_LANDING is s3://BUCKET/PREFIX. Not the registry's."
  type        = string
}

variable "landing_prefix" {
  description = "Prefix in it, without a slash at its ends."
  type        = string
  default     = "rows"

  validation {
    condition     = can(regex("^[^/*?]+(/[^/*?]+)*$", var.landing_prefix))
    error_message = "Give a prefix such as rows, without a slash at its ends, without * and ?."
  }
}

variable "principals" {
  description = "Who may take on each role: role -> ARNs. A role that is left out can be taken on by nobody."
  type        = map(list(string))
  default     = {}
}

variable "oidc" {
  description = "EKS service accounts that have a role: role -> NAMESPACE:ACCOUNT, with the cluster's issuer (no https://)."
  type = object({
    issuer   = string
    accounts = map(string)
  })
  default = null
}
