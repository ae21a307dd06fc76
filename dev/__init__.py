"""The development environment: embedded servers, the supervisor behind ``up``, the test runner. Not in the wheel."""
