"""Floor 2: persistence. `base` says what a store must do; `postgres` and `memory` do it. No workflow code runs here."""
