# The policies are made by infra/policies.py; docs/deployment.md says what each role may.
locals {
  roles = toset(["reader", "trainer", "promoter", "collector", "ingester", "worker"])
}

data "aws_iam_policy_document" "assume" {
  for_each = local.roles

  # With nobody named it denies: a role without a trust policy can't be made.
  statement {
    effect  = length(lookup(var.principals, each.key, [])) > 0 ? "Allow" : "Deny"
    actions = ["sts:AssumeRole"]

    principals {
      type        = "AWS"
      identifiers = coalescelist(lookup(var.principals, each.key, []), [data.aws_caller_identity.here.account_id])
    }
  }

  dynamic "statement" {
    for_each = var.oidc == null ? [] : compact([lookup(var.oidc.accounts, each.key, "")])

    content {
      actions = ["sts:AssumeRoleWithWebIdentity"]

      principals {
        type = "Federated"
        identifiers = [
          "arn:${data.aws_partition.here.partition}:iam::${data.aws_caller_identity.here.account_id}:oidc-provider/${var.oidc.issuer}"
        ]
      }

      condition {
        test     = "StringEquals"
        variable = "${var.oidc.issuer}:sub"
        values   = ["system:serviceaccount:${statement.value}"]
      }

      condition {
        test     = "StringEquals"
        variable = "${var.oidc.issuer}:aud"
        values   = ["sts.amazonaws.com"]
      }
    }
  }
}

resource "aws_iam_role" "each" {
  for_each             = local.roles
  name                 = "${var.name}-${each.key}"
  assume_role_policy   = data.aws_iam_policy_document.assume[each.key].json
  max_session_duration = 43200
}

resource "aws_iam_role_policy" "each" {
  for_each = local.roles
  name     = "store"
  role     = aws_iam_role.each[each.key].id
  policy   = templatefile("${path.module}/policies/${each.key}.json", local.places)
}
