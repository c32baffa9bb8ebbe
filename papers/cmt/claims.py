"""How CMT's claims are measured."""
