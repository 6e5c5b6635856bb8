//! Priority of an event: a number with its category.

use std::fmt;

use serde::{Deserialize, Serialize};

/// 0 to 10; a larger number is more urgent (protocol section 2.4). In stored records it is the
/// number alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Priority(u8);

impl Priority {
    /// The highest priority.
    pub const MAX: Priority = Priority(10);

    /// `number`, or the nearest valid one.
    pub const fn new(number: u8) -> Priority {
        if number > 10 { Priority::MAX } else { Priority(number) }
    }

    /// The number alone.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The category of the number.
    pub const fn category(self) -> &'static str {
        match self.0 {
            0..=2 => "Information",
            3..=5 => "Warning",
            6..=8 => "Critical",
            _ => "Urgent",
        }
    }
}

impl TryFrom<u8> for Priority {
    type Error = &'static str;

    fn try_from(number: u8) -> Result<Priority, &'static str> {
        if number > Priority::MAX.0 {
            return Err("a priority is a number from 0 to 10");
        }
        Ok(Priority(number))
    }
}

impl From<Priority> for u8 {
    fn from(priority: Priority) -> u8 {
        priority.0
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} - {}", self.0, self.category())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dash_stands_between_number_and_category() {
        let shown: Vec<String> = (0..=11).map(|n| Priority::new(n).to_string()).collect();
        assert_eq!(shown[0], "0 - Information");
        assert_eq!(shown[2], "2 - Information");
        assert_eq!(shown[3], "3 - Warning");
        assert_eq!(shown[5], "5 - Warning");
        assert_eq!(shown[6], "6 - Critical");
        assert_eq!(shown[8], "8 - Critical");
        assert_eq!(shown[9], "9 - Urgent");
        assert_eq!(shown[11], "10 - Urgent");
    }
}
