"""Pure values of the line: params, layout, manifests, digests, errors, events. No torch, no network."""
