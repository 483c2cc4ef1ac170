"""How good policies are in an environment, with intervals; and what dreams said of them."""
