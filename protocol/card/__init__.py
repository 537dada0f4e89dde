"""EMV card data and cryptography, bytes in and bytes out (design §7)."""
