//! The decision: which server gets a new flow (S201 to S210 of the patent).

/// How one of the candidates for a new flow is chosen (S208). All weigh candidates by capacity.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// The candidate with the smallest load: the patent's rule to the letter.
    LeastLoad = 0,
    /// The lower of two candidates picked at random, so that not all servers run to the same one between two reports.
    #[default]
    TwoChoices = 1,
    /// A random candidate that is below the overload level.
    BelowLevel = 2,
    /// Each candidate in turn.
    RoundRobin = 3,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 4] = [
        Self::LeastLoad,
        Self::TwoChoices,
        Self::BelowLevel,
        Self::RoundRobin,
    ];

    /// The policy that is called `name` in files and commands.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }

    /// Its name in files and commands.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LeastLoad => "least-load",
            Self::TwoChoices => "two-choices",
            Self::BelowLevel => "below-level",
            Self::RoundRobin => "round-robin",
        }
    }
}
