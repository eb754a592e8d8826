//! What is printed.

/// The times of one case, in nanoseconds.
pub struct Row<'a> {
    /// What the packets are.
    pub name: &'a str,
    /// What the program took, without what an empty one takes.
    pub net: Spread,
    /// What Katran took for the like on another day.
    pub katran: Option<&'static str>,
}

/// What the rounds gave, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    least: i32,
    median: i32,
    most: i32,
}

impl Spread {
    /// Of at least one time.
    pub fn of(mut times: Vec<i32>) -> Self {
        times.sort_unstable();
        Self {
            least: times[0],
            median: times[times.len() / 2],
            most: times[times.len() - 1],
        }
    }
}

/// The rows as a table in Markdown that lines up as text, too.
pub fn markdown(rows: &[Row<'_>], empty: Spread) -> String {
    let head = [
        "ns per packet",
        "median",
        "min",
        "max",
        "× empty",
        "Katran *",
    ];
    let lines = rows.iter().map(|row| {
        let whole = f64::from(row.net.median + empty.median);
        [
            row.name.to_owned(),
            row.net.median.to_string(),
            row.net.least.to_string(),
            row.net.most.to_string(),
            format!("{:.1}", whole / f64::from(empty.median.max(1))),
            row.katran.unwrap_or_default().to_owned(),
        ]
    });
    let lines: Vec<_> = [head.map(str::to_owned)].into_iter().chain(lines).collect();
    let widths: [usize; 6] = std::array::from_fn(|column| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or_default()
    });
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        text += &format!("| {:<1$} |", line[0], widths[0]);
        for (cell, width) in line.iter().zip(widths).skip(1) {
            text += &format!(" {cell:>width$} |");
        }
        text += "\n";
        if number == 0 {
            text += &format!("|{}|", "-".repeat(widths[0] + 2));
            for width in &widths[1..] {
                text += &format!("{}:|", "-".repeat(width + 1));
            }
            text += "\n";
        }
    }
    text
}

/// What one has to know to read the table.
pub fn notes(empty: Spread, outer: Spread, rounds: usize) -> String {
    format!(
        "Each figure is of {rounds} rounds, less what an empty XDP program takes: {} ns ({} to {}), the kernel's loop included. The\n\
         program that remakes the packets takes {} ns ({} to {}), left out as well. × empty: the whole against an empty program.\n\
         * Katran's figures were measured elsewhere: on another machine of this kind, net of the same.",
        empty.median, empty.least, empty.most, outer.median, outer.least, outer.most,
    )
}
