"""From settings to a running role: open the keystore, read the PKI, bind ports to the world."""
