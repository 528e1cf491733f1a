"""Mathematics shared by the algorithms."""
