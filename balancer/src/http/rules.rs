//! Which rule a request falls under, and which servers are dedicated to it (S402, S403).

use hyper::Method;

use super::target::Target;
use super::view::{Server, View};
use crate::config::{HostPattern, Name, PathPattern, Rule, RuleRoute, Stateful};

/// The rules of a service, the most specific one first.
pub struct Rules(Vec<Rule>);

/// What a request falls under.
#[derive(Clone, Copy, Debug)]
pub enum Matched<'a> {
    /// A rule of the configuration.
    Rule(&'a Rule),
    /// A path that a server says it is dedicated to.
    Announced(&'a PathPattern),
    /// Nothing: it is for all servers.
    None,
}

/// The servers dedicated to some requests.
#[derive(Clone, Copy, Debug)]
pub enum Group<'a> {
    /// All.
    All,
    /// Those with these names.
    Named(&'a [Name]),
    /// Those that say that they serve this path.
    Announced(&'a PathPattern),
}

impl Rules {
    /// In the order in which they count. Of two that are equally specific the first one written counts.
    pub fn new(mut rules: Vec<Rule>) -> Self {
        rules.sort_by_key(|rule| std::cmp::Reverse(specificity(rule)));
        Self(rules)
    }

    /// What a request falls under.
    pub fn find<'a>(&'a self, method: &Method, target: &Target, view: &'a View) -> Matched<'a> {
        let fits = |rule: &&Rule| {
            (rule.host.as_ref()).is_none_or(|host| host.matches(&target.host))
                && (rule.methods.is_empty() || rule.methods.contains(method))
                && rule.path.matches(target.path())
        };
        let rule = self.0.iter().find(fits);
        let announced = (view.servers().flat_map(|server| &server.serves))
            .filter(|path| path.matches(target.path()))
            .max_by_key(|path| (path.specificity(), path.as_str()));
        match (rule, announced) {
            (Some(rule), Some(path))
                if rule.host.is_none() && path.specificity() > rule.path.specificity() =>
            {
                Matched::Announced(path)
            }
            (Some(rule), _) => Matched::Rule(rule),
            (None, Some(path)) => Matched::Announced(path),
            (None, None) => Matched::None,
        }
    }
}

/// A host counts more than a path, a path more than a method; an exact one more than one with a wildcard, and of those the
/// one that fixes more.
fn specificity(rule: &Rule) -> impl Ord + use<> {
    (
        rule.host.as_ref().map(HostPattern::specificity),
        rule.path.specificity(),
        !rule.methods.is_empty(),
    )
}

impl<'a> Matched<'a> {
    /// The rule, if it is one of the configuration.
    pub fn rule(self) -> Option<&'a Rule> {
        match self {
            Self::Rule(rule) => Some(rule),
            Self::Announced(_) | Self::None => None,
        }
    }

    /// What the rule says of transactions.
    pub fn stateful(self) -> Option<&'a Stateful> {
        self.rule()?.stateful.as_ref()
    }

    /// How its requests get to another server.
    pub fn route(self) -> RuleRoute {
        self.rule().map_or(RuleRoute::default(), |rule| rule.route)
    }

    /// The servers dedicated to it.
    pub fn group(self, view: &View) -> Group<'a> {
        match self {
            Self::Rule(rule) if !rule.servers.is_empty() => Group::Named(&rule.servers),
            Self::Rule(rule)
                if view
                    .servers()
                    .any(|server| server.serves.contains(&rule.path)) =>
            {
                Group::Announced(&rule.path)
            }
            Self::Announced(path) => Group::Announced(path),
            Self::Rule(_) | Self::None => Group::All,
        }
    }
}

impl Group<'_> {
    /// Whether a server is dedicated.
    pub fn has(self, server: &Server) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.iter().any(|name| name.as_str() == server.name),
            Self::Announced(path) => server.serves.contains(path),
        }
    }
}
