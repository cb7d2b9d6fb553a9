output "registry" {
  description = "TUNELINE_REGISTRY"
  value       = "s3://${aws_s3_bucket.registry.bucket}/${var.registry_prefix}"
}

output "landing" {
  description = "TUNELINE_LANDING"
  value       = "s3://${aws_s3_bucket.landing.bucket}/${var.landing_prefix}"
}

output "landing_queue_url" {
  description = "TUNELINE_QUEUE: where landing files are told of."
  value       = aws_sqs_queue.landing.id
}

output "role_arns" {
  description = "Role -> ARN."
  value       = { for name, role in aws_iam_role.each : name => role.arn }
}
