"""Where the router's knowledge of workers comes from: EndpointSlices of a cluster, or a file."""
