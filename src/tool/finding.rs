//! Findings about an image: errors and warnings, each with the place that it is about.

use std::fmt;

/// The number of findings that are kept. The rest is counted.
pub const FINDINGS_MAX: usize = 1000;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The boot fails, or the system lacks a part.
    Error,
    /// The system boots, but something is unusual or wasteful.
    Warning,
}

/// One finding. Displayed as a line of `layerinit check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    place: String,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{word}: {}: {}", self.place, self.what)
    }
}

/// Findings in the order in which they were made.
#[derive(Clone, Debug)]
pub struct Findings {
    list: Vec<Finding>,
    max: usize,
    errors: usize,
    warnings: usize,
    notes: Vec<String>,
    summary: Vec<String>,
}

impl Default for Findings {
    fn default() -> Self {
        Self::with_max(FINDINGS_MAX)
    }
}

impl Findings {
    /// No findings yet, and room for `max`.
    pub fn with_max(max: usize) -> Self {
        Self {
            list: Vec::new(),
            max,
            errors: 0,
            warnings: 0,
            notes: Vec::new(),
            summary: Vec::new(),
        }
    }

    /// Adds an error.
    pub fn error(&mut self, place: impl fmt::Display, what: impl Into<String>) {
        self.report(Severity::Error, place, what);
    }

    /// Adds a warning.
    pub fn warning(&mut self, place: impl fmt::Display, what: impl Into<String>) {
        self.report(Severity::Warning, place, what);
    }

    /// Adds a finding.
    pub fn report(
        &mut self,
        severity: Severity,
        place: impl fmt::Display,
        what: impl Into<String>,
    ) {
        let count = match severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        *count = count.saturating_add(1);
        if self.list.len() < self.max {
            self.list.push(Finding {
                severity,
                place: place.to_string(),
                what: what.into(),
            });
        }
    }

    /// Findings about one place.
    pub fn at(&mut self, place: impl fmt::Display) -> FindingsAt<'_> {
        FindingsAt {
            findings: self,
            place: place.to_string(),
        }
    }

    /// Adds the findings of another list.
    pub fn extend(&mut self, other: &Self) {
        let room = self.max.saturating_sub(self.list.len());
        self.list.extend(other.list.iter().take(room).cloned());
        self.errors = self.errors.saturating_add(other.errors);
        self.warnings = self.warnings.saturating_add(other.warnings);
    }

    /// Adds a line that is neither an error nor a warning. It is printed below the findings.
    pub fn note(&mut self, line: String) {
        self.notes.push(line);
    }

    /// Adds a clause to the last line.
    pub fn summarize(&mut self, clause: String) {
        self.summary.push(clause);
    }

    /// The findings that are kept.
    pub fn list(&self) -> &[Finding] {
        &self.list
    }

    /// The first error, with its place.
    pub fn first_error(&self) -> Option<String> {
        let mut list = self.list.iter();
        let error = list.find(|finding| finding.severity == Severity::Error)?;
        Some(format!("{}: {}", error.place, error.what))
    }

    /// The number of errors, including those that are not kept.
    pub fn errors(&self) -> usize {
        self.errors
    }

    /// The number of warnings, including those that are not kept.
    pub fn warnings(&self) -> usize {
        self.warnings
    }

    /// The number of findings that are not kept.
    pub fn dropped(&self) -> usize {
        self.errors
            .saturating_add(self.warnings)
            .saturating_sub(self.list.len())
    }

    /// The lines below the findings.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The clauses of the last line.
    pub fn summary(&self) -> &[String] {
        &self.summary
    }
}

/// Adds findings about one place: see [`Findings::at`].
#[derive(Debug)]
pub struct FindingsAt<'a> {
    findings: &'a mut Findings,
    place: String,
}

impl FindingsAt<'_> {
    /// Adds an error.
    pub fn error(&mut self, what: impl Into<String>) {
        self.report(Severity::Error, what);
    }

    /// Adds a warning.
    pub fn warning(&mut self, what: impl Into<String>) {
        self.report(Severity::Warning, what);
    }

    /// Adds a finding.
    pub fn report(&mut self, severity: Severity, what: impl Into<String>) {
        self.findings.report(severity, &self.place, what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_without_room_are_counted() {
        let mut findings = Findings::with_max(2);
        findings.error("a", "b");
        let mut more = Findings::default();
        more.at("c").warning("d");
        more.error("e", "f");
        findings.extend(&more);
        findings.warning("g", "h");
        let lines: Vec<_> = findings.list().iter().map(Finding::to_string).collect();
        assert_eq!(lines, ["error: a: b", "warning: c: d"]);
        let counts = (findings.errors(), findings.warnings(), findings.dropped());
        assert_eq!(counts, (2, 2, 2));
    }
}
