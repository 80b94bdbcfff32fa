"""Operations used by the networks."""
