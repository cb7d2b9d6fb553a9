# A landing file tells the queue; whoever reads it lists the landing place again, so a lost or doubled message costs nothing.
resource "aws_sqs_queue" "landing" {
  name                       = "${var.name}-landing"
  sqs_managed_sse_enabled    = true
  visibility_timeout_seconds = 900
  message_retention_seconds  = 1209600

  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.landing_dead.arn
    maxReceiveCount     = 5
  })
}

resource "aws_sqs_queue" "landing_dead" {
  name                      = "${var.name}-landing-dead"
  sqs_managed_sse_enabled   = true
  message_retention_seconds = 1209600
}

resource "aws_sqs_queue_redrive_allow_policy" "landing_dead" {
  queue_url = aws_sqs_queue.landing_dead.id

  redrive_allow_policy = jsonencode({
    redrivePermission = "byQueue"
    sourceQueueArns   = [aws_sqs_queue.landing.arn]
  })
}

data "aws_iam_policy_document" "landing_queue" {
  statement {
    sid       = "FromTheLandingBucket"
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.landing.arn]

    principals {
      type        = "Service"
      identifiers = ["s3.amazonaws.com"]
    }

    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [aws_s3_bucket.landing.arn]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.here.account_id]
    }
  }
}

resource "aws_sqs_queue_policy" "landing" {
  queue_url = aws_sqs_queue.landing.id
  policy    = data.aws_iam_policy_document.landing_queue.json
}

resource "aws_s3_bucket_notification" "landing" {
  bucket     = aws_s3_bucket.landing.id
  depends_on = [aws_sqs_queue_policy.landing]

  queue {
    queue_arn     = aws_sqs_queue.landing.arn
    events        = ["s3:ObjectCreated:*"]
    filter_prefix = "${var.landing_prefix}/"
  }
}
