"""The explanation of a call: evidence from DNS and headers, likely causes, commands to confirm them."""
