"""Input and output filters: guards that leave pictures as they are and decide which of them are handed out."""
