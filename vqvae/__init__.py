"""The mask codec: 64x64 masks to 16 codes and back."""
