"""``diwa finetune``: PPO in dreams, how far its dreams are to be trusted, and which of its policies to take."""
