"""Plans a run before anything is rented: memory, time and cost from its config."""
