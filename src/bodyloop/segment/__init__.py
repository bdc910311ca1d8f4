"""The segmenter role: a picture is encoded once, people are drawn from prompts."""
