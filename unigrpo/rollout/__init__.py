"""The one rollout: what is sampled and replayed, what it records, and what it says in words and pixels."""
