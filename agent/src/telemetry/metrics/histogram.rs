//! A histogram with fixed bounds.

/// Upper bounds of the buckets, each included; one more bucket has the rest.
pub type Bounds = &'static [f64];

/// Of `db.client.operation.duration`, in seconds: the conventions' own.
pub const DURATION: Bounds = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];
/// Of `db.client.response.returned_rows`, likewise.
pub const ROWS: Bounds =
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0];

#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    pub bounds: Bounds,
    /// One more than there are bounds.
    pub counts: Vec<u64>,
    pub count: u64,
    pub sum: f64,
}

impl Histogram {
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], count: 0, sum: 0.0 }
    }

    pub fn record(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.count += 1;
        self.sum += value;
    }
}
