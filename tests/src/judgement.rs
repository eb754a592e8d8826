//! How a benchmark says whether a target is met.

/// In how many of `rows` it is, and in which not.
pub fn met(rows: usize, missed: &[String]) -> String {
    let met = format!("met in {} of {rows} rows", rows - missed.len());
    if missed.is_empty() {
        met
    } else {
        format!("{met}; missed: {}", missed.join(", "))
    }
}
