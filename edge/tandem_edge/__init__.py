"""What the router and the bundled server share at their edge to the network. It knows neither of them."""
