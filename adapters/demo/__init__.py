"""``msds demo``: photographs distorted at rising strength, their scores, and the picture of both."""
