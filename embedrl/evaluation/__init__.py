"""The public benchmarks: their data sets as data, readers, averages, published figures."""
