terraform {
  required_version = ">= 1.6"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = { project = var.name }
  }
}

data "aws_partition" "here" {}

data "aws_caller_identity" "here" {}

locals {
  places = {
    partition         = data.aws_partition.here.partition
    registry_bucket   = aws_s3_bucket.registry.bucket
    registry_prefix   = var.registry_prefix
    landing_bucket    = aws_s3_bucket.landing.bucket
    landing_prefix    = var.landing_prefix
    landing_queue_arn = aws_sqs_queue.landing.arn
  }
  buckets = { registry = aws_s3_bucket.registry.id, landing = aws_s3_bucket.landing.id }
}
