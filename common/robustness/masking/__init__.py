"""Evidence for the masking checks: signs at single images, variants of an attack, another classifier."""
