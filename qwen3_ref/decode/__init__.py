"""From logits to text: sampling, the thinking budget, generation, dialogue."""
