//! Faults of one object while it is compiled, and the conditions that follow from them.

use crds::{ConditionStatus, ConditionType, Reason};

use crate::model::{Finding, ObjectConditions};

/// How bad a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// The object is not accepted and yields nothing.
    Reject,
    /// A part of the object is left out; somebody has to change something.
    Degrade,
    /// It goes on by itself when what is missing comes.
    Wait,
}

#[derive(Clone, Debug)]
struct Fault {
    level: Level,
    reason: Reason,
    field: String,
    message: String,
}

/// Faults of one object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults(Vec<Fault>);

impl Faults {
    /// The object is not accepted.
    pub(crate) fn reject(&mut self, reason: Reason, field: impl Into<String>, message: impl Into<String>) {
        self.push(Level::Reject, reason, field.into(), message.into());
    }

    /// A part of it is left out.
    pub(crate) fn degrade(&mut self, reason: Reason, field: impl Into<String>, message: impl Into<String>) {
        self.push(Level::Degrade, reason, field.into(), message.into());
    }

    /// Something is not there yet.
    pub(crate) fn wait(&mut self, reason: Reason, field: impl Into<String>, message: impl Into<String>) {
        self.push(Level::Wait, reason, field.into(), message.into());
    }

    pub(crate) fn accepted(&self) -> bool {
        self.0.iter().all(|f| f.level != Level::Reject)
    }

    /// Conditions: Accepted first, then what follows for Ready, Stalled and Reconciling. Each fault is told
    /// once as Accepted=False or Ready=False.
    pub(crate) fn conditions(mut self, kind: &str, name: &str) -> ObjectConditions {
        self.0.sort_by_key(|f| f.level);
        let mut findings = Vec::new();
        let finding = |type_, status, fault: &Fault| Finding {
            type_,
            status,
            reason: fault.reason,
            field: fault.field.clone(),
            message: fault.message.clone(),
            waiting: fault.level == Level::Wait,
        };
        let (yes, no) = (ConditionStatus::True, ConditionStatus::False);
        if self.accepted() {
            findings.push(Finding {
                type_: ConditionType::Accepted,
                status: yes,
                reason: Reason::Accepted,
                field: String::new(),
                message: String::new(),
                waiting: false,
            });
        }
        for fault in &self.0 {
            let type_ = match fault.level {
                Level::Reject => ConditionType::Accepted,
                Level::Degrade | Level::Wait => ConditionType::Ready,
            };
            findings.push(finding(type_, no, fault));
        }
        if let Some(first) = self.0.first() {
            if first.level == Level::Reject {
                findings.push(finding(ConditionType::Ready, no, first));
            }
            let type_ = match first.level {
                Level::Wait => ConditionType::Reconciling,
                Level::Reject | Level::Degrade => ConditionType::Stalled,
            };
            findings.push(finding(type_, yes, first));
        }
        ObjectConditions { kind: kind.to_owned(), name: name.to_owned(), findings }
    }

    fn push(&mut self, level: Level, reason: Reason, field: String, message: String) {
        self.0.push(Fault { level, reason, field, message });
    }
}
