"""The one rollout: sampling and replay, the trajectory it records, and its texts and pixels decoded."""
