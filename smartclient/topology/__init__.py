"""Which of a service's instances get calls at all: subsets, priorities, zones, panic."""
