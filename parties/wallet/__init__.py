"""The wallet: the app that the software provider releases and the phone measures. It ships as a zipapp."""
