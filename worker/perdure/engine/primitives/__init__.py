"""One file for each thing that workflow code can ask for: its awaitable, its command, its rule of confirmation."""
