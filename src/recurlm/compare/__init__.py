"""A comparison of variants: tuned with equal effort, trained from several seeds, scored once, with intervals."""
