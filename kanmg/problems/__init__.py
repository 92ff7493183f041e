"""Problems: data or equations that turn a network's values into a loss."""
