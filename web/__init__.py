"""How people and programs see the jobs: the HTTP API, the live feed and the board."""
