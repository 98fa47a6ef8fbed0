//! What is made of several measurements of one thing.

/// The middle one; between the two middle ones of an even number. 0 of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The value that `share` of all are not above; 0 of none.
pub fn quantile(values: impl IntoIterator<Item = f64>, share: f64) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or_default()
}

/// The same of values that were rounded to whole ones: each stands for all that may have been there before.
pub fn rounded_quantile(values: impl IntoIterator<Item = u64>, share: f64) -> f64 {
    let mut sorted: Vec<u64> = values.into_iter().collect();
    sorted.sort_unstable();
    let wanted = sorted.len() as f64 * share;
    let Some(&value) = sorted.get((wanted as usize).min(sorted.len().saturating_sub(1))) else {
        return 0.0;
    };
    let below = sorted.partition_point(|&other| other < value);
    let equal = sorted.partition_point(|&other| other <= value) - below;
    value as f64 - 0.5 + (wanted - below as f64) / equal as f64
}

/// `a / b` for figures that may be 0.
pub fn ratio(a: f64, b: f64) -> f64 {
    if b == 0.0 { 0.0 } else { a / b }
}

#[cfg(test)]
mod tests {
    use super::{median, quantile, rounded_quantile};

    #[test]
    fn medians() {
        let check = |values: &[f64], expected: f64| {
            assert_eq!(median(values.iter().copied()), expected, "{values:?}");
        };
        check(&[], 0.0);
        check(&[7.0], 7.0);
        check(&[3.0, 1.0], 2.0);
        check(&[9.0, 1.0, 2.0], 2.0);
    }

    #[test]
    fn quantiles() {
        let check = |values: &[f64], share: f64, expected: f64| {
            assert_eq!(quantile(values.iter().copied(), share), expected, "{share} of {values:?}");
        };
        check(&[], 0.1, 0.0);
        check(&[5.0], 0.1, 5.0);
        check(&[3.0, 1.0, 2.0], 0.0, 1.0);
        check(&[3.0, 1.0, 2.0], 1.0, 3.0);
    }

    #[test]
    fn quantiles_of_rounded_values() {
        let check = |values: &[u64], share: f64, expected: f64| {
            assert_eq!(rounded_quantile(values.iter().copied(), share), expected, "{values:?}");
        };
        check(&[], 0.5, 0.0);
        check(&[7], 0.5, 7.0);
        check(&[3, 3, 3, 3], 0.25, 2.75);
        check(&[2, 3, 3, 4], 0.5, 3.0);
        check(&[2, 2, 2, 3], 0.5, 1.5 + 2.0 / 3.0);
        check(&[1, 9], 1.0, 9.5);
    }
}
