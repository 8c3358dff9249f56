//! The totals below a table of a workbook.

use super::ColumnTotal;

/// What a column adds up to so far.
#[derive(Clone, Debug)]
pub struct TotalState {
    function: ColumnTotal,
    cells: u64,
    numbers: u64,
    sum: f64,
    /// What the additions to `sum` have lost.
    lost: f64,
    min: f64,
    max: f64,
    has_dates: bool,
}

impl TotalState {
    /// Starts with no cell.
    pub fn new(function: ColumnTotal) -> Self {
        let (min, max) = (f64::INFINITY, f64::NEG_INFINITY);
        Self { function, cells: 0, numbers: 0, sum: 0.0, lost: 0.0, min, max, has_dates: false }
    }

    /// The function of the total.
    pub fn function(&self) -> ColumnTotal {
        self.function
    }

    /// Adds a date, as its number.
    pub fn add_date(&mut self, serial: f64) {
        self.has_dates = true;
        self.add(Some(serial));
    }

    /// Whether there were dates.
    pub fn has_dates(&self) -> bool {
        self.has_dates
    }

    /// Adds a cell. `number` is its value if it is a number.
    pub fn add(&mut self, number: Option<f64>) {
        self.cells += 1;
        let Some(number) = number else { return };
        self.numbers += 1;
        // Neumaier's sum: a million amounts add up to the cent.
        let sum = self.sum + number;
        self.lost += match self.sum.abs() >= number.abs() {
            true => (self.sum - sum) + number,
            false => (number - sum) + self.sum,
        };
        self.sum = sum;
        self.min = self.min.min(number);
        self.max = self.max.max(number);
    }

    /// The total. `None` if there is none, or if no cell can hold it.
    pub fn value(&self) -> Option<f64> {
        let some = self.numbers > 0;
        let value = match self.function {
            ColumnTotal::Sum => Some(self.sum + self.lost),
            ColumnTotal::Average => some.then(|| (self.sum + self.lost) / self.numbers as f64),
            ColumnTotal::Min => some.then_some(self.min),
            ColumnTotal::Max => some.then_some(self.max),
            ColumnTotal::Count => Some(self.cells as f64),
        };
        value.filter(|value| value.is_finite())
    }
}

impl ColumnTotal {
    /// The number of the function in `SUBTOTAL`, which counts only the rows that a filter shows.
    pub fn subtotal_number(self) -> u32 {
        match self {
            Self::Average => 101,
            Self::Count => 103,
            Self::Max => 104,
            Self::Min => 105,
            Self::Sum => 109,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_of_numbers_and_texts_are_right() {
        for (function, expected) in [
            (ColumnTotal::Sum, Some(0.3)),
            (ColumnTotal::Average, Some(0.1)),
            (ColumnTotal::Min, Some(-1.0)),
            (ColumnTotal::Max, Some(1.2)),
            (ColumnTotal::Count, Some(4.0)),
        ] {
            let mut total = TotalState::new(function);
            [Some(0.1), Some(-1.0), None, Some(1.2)].into_iter().for_each(|number| total.add(number));
            let value = total.value();
            assert!(
                value.zip(expected).is_some_and(|(value, expected)| (value - expected).abs() < 1e-15),
                "{function:?}"
            );
        }
        assert_eq!(TotalState::new(ColumnTotal::Min).value(), None);
        let mut cents = TotalState::new(ColumnTotal::Sum);
        (0..1_000_000).for_each(|_| cents.add(Some(0.01)));
        assert_eq!(cents.value(), Some(10_000.0));
    }
}
