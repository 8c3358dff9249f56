//! Follows which bits of which coefficients the scans of a JPEG give. Only this shows that a file was cut between two
//! scans: a decoder takes what it has, and an end marker may have been glued on.

const COEFFICIENTS: usize = 64;
/// Stands for a coefficient that no scan gives.
const MISSING: u8 = u8::MAX;

/// What the scans up to here give.
#[derive(Default)]
pub struct ScanCoverage {
    /// For each component, the lowest bit of each coefficient that a scan gives.
    lowest_bits: Vec<[u8; COEFFICIENTS]>,
}

impl ScanCoverage {
    /// Adds a scan by its header. `identifiers` are those of the components of the frame.
    pub fn add_scan(&mut self, header: &[u8], identifiers: &[u8], progressive: bool) {
        self.lowest_bits.resize(identifiers.len(), [MISSING; COEFFICIENTS]);
        let Some((count, rest)) = header.split_first() else { return };
        let Some((selectors, parameters)) = rest.split_at_checked(2 * usize::from(*count)) else { return };
        let (first, last, lowest_bit) = match parameters {
            [first, last, approximation, ..] if progressive => (*first, *last, approximation & 15),
            // Some cameras write other values into sequential scans, which all readers ignore.
            _ => (0, u8::MAX, 0),
        };
        for selector in selectors.iter().step_by(2) {
            let components = identifiers.iter().zip(&mut self.lowest_bits);
            for (_, bits) in components.filter(|(identifier, _)| *identifier == selector) {
                let covered = bits.iter_mut().take(usize::from(last) + 1).skip(first.into());
                covered.for_each(|bit| *bit = lowest_bit);
            }
        }
    }

    /// True if all bits of all coefficients are there.
    pub fn is_complete(&self) -> bool {
        !self.lowest_bits.is_empty() && self.lowest_bits.iter().flatten().all(|bit| *bit == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// True if the scans give all of a picture with the components 1 and 2.
    fn covers(progressive: bool, scans: &[&[u8]]) -> bool {
        let mut coverage = ScanCoverage::default();
        scans.iter().for_each(|header| coverage.add_scan(header, &[1, 2], progressive));
        coverage.is_complete()
    }

    #[test]
    fn progressive_picture_is_complete_with_its_last_scan() {
        let scans: [&[u8]; 6] = [
            &[2, 1, 0, 2, 0, 0, 0, 0x01],
            &[1, 1, 0, 1, 5, 0x02],
            &[1, 2, 0, 1, 63, 0x00],
            &[1, 1, 0, 6, 63, 0x00],
            &[1, 1, 0, 1, 5, 0x20],
            &[2, 1, 0, 2, 0, 0, 0, 0x10],
        ];
        assert!(covers(true, &scans));
        for missing in 0..scans.len() {
            assert!(!covers(true, &scans[..missing]), "the first {missing}");
        }
        // The coefficients 6 to 63 of the first component.
        assert!(!covers(true, &[&scans[..3], &scans[4..]].concat()));
    }

    #[test]
    fn sequential_picture_needs_a_scan_of_each_component() {
        assert!(covers(false, &[&[2, 1, 0, 2, 0, 0, 63, 0]]));
        assert!(covers(false, &[&[2, 1, 0, 2, 0, 0, 63, 1]]), "as some cameras write it");
        assert!(covers(false, &[&[1, 1, 0, 0, 63, 0], &[1, 2, 0, 0, 63, 0]]));
        assert!(!covers(false, &[&[1, 1, 0, 0, 63, 0]]));
        let broken: [&[u8]; 4] = [&[], &[2, 1, 0], &[0], &[255]];
        for header in broken {
            assert!(!covers(true, &[header]), "{header:?}");
        }
    }
}
