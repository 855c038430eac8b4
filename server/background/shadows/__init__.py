"""Shadow traffic: copies of real requests on another version, whose answers nobody sees and nobody stores."""
