"""Where cohorts come from: the phantom, BIDS folders, arrays; and how they are split."""
