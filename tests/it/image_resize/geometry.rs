//! Compares the size of each result with ImageMagick itself, to the pixel.

use std::process::Command;

use afterload_image_resize::Geometry;
use afterload_media_type::PixelSize;

/// Asks ImageMagick for the size of each result, all in one process.
fn imagemagick(cases: &[(PixelSize, String)]) -> Vec<String> {
    let program = if Command::new("magick").arg("-version").output().is_ok() { "magick" } else { "convert" };
    let mut command = Command::new(program);
    // Only the sizes matter, so use the fastest filter.
    command.args(["-filter", "point"]);
    for (size, geometry) in cases {
        command.args(["(", "-size", &size.to_string(), "xc:white"]);
        match geometry.strip_suffix('#') {
            Some(area) => command.args(["-resize", &format!("{area}^"), "-gravity", "center", "-extent", area]),
            None => command.args(["-resize", geometry]),
        };
        command.args(["+repage", ")"]);
    }
    let output = command.args(["-format", "%wx%h\n", "info:"]).output();
    let output = output.expect("ImageMagick is missing; install it with: apt-get install imagemagick");
    let text = String::from_utf8(output.stdout).unwrap();
    let sizes: Vec<_> = text.lines().map(str::to_owned).collect();
    assert_eq!(sizes.len(), cases.len(), "{}", String::from_utf8_lossy(&output.stderr));
    sizes
}

fn compare(cases: &[(PixelSize, String)]) {
    let ours = |(size, geometry): &(PixelSize, String)| {
        let geometry: Geometry = geometry.parse().unwrap_or_else(|fault| panic!("{geometry}: {fault:?}"));
        geometry.scale_crop_for(*size).size
    };
    let mut faults = Vec::new();
    for (case, theirs) in cases.iter().zip(imagemagick(cases)) {
        let ours = ours(case);
        // If a side would have no pixel, or more than the policy of Debian's ImageMagick allows, ImageMagick reports an
        // error and keeps the picture. We make one pixel, and apply our own limits.
        let refused =
            theirs == case.0.to_string() && (ours.width.min(ours.height) == 1 || ours.width.max(ours.height) > 16_000);
        if ours.to_string() != theirs && !refused {
            faults.push(format!("{} `{}`: ImageMagick makes {theirs}, we {ours}", case.0, case.1));
        }
    }
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), cases.len(), faults.join("\n"));
}

#[test]
fn every_form_gives_imagemagicks_size() {
    let sizes = [(640, 480), (480, 640), (100, 100), (99, 101), (1, 1), (1, 300), (333, 7), (75, 50)];
    let numbers = ["64x48", "100x100", "50x200", "333x7", "99x101", "17", "x17", "640", "x480", "1x1", "75x50"];
    let mut cases = Vec::new();
    for (width, height) in sizes {
        let mut add = |geometry: String| cases.push((PixelSize::new(width, height), geometry));
        for number in numbers {
            for flags in ["", ">", "<", "!", "^", "!>", "!<", "^>", "^<"] {
                add(format!("{number}{flags}"));
            }
            if number.split('x').filter(|side| !side.is_empty()).count() == 2 {
                add(format!("{number}#"));
            }
        }
        for percent in ["50%", "33.3%", "150%", "1%", "12.5x50%", "50%x25%", "x30%", "100%", "66.6%>", "120%<", "30%!"]
        {
            add(percent.to_owned());
        }
        for area in ["10000@", "1@", "100@>", "100000@<", "307200@", "5000@", "7@"] {
            add(area.to_owned());
        }
    }
    compare(&cases);
}

/// The seed is fixed, so that every run tests the same numbers.
#[test]
fn random_cases_give_imagemagicks_size() {
    let mut state = 88_172_645_463_325_252_u64;
    let mut dice = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut cases = Vec::new();
    for _ in 0..600 {
        let size = PixelSize::new(1 + dice(400) as u32, 1 + dice(400) as u32);
        let (width, height) = (1 + dice(500), 1 + dice(500));
        let numbers = match dice(6) {
            0 => format!("{width}"),
            1 => format!("x{height}"),
            2 => format!("{}.{}%", 1 + dice(200), dice(100)),
            3 => format!("{}@", 1 + dice(100_000)),
            _ => format!("{width}x{height}"),
        };
        let flags: &[&str] = match numbers.ends_with('@') {
            true => &["", ">", "<"],
            false => &["", ">", "<", "!", "^", "^>", "^<", "!>", "!<"],
        };
        cases.push((size, format!("{numbers}{}", flags[dice(flags.len() as u64) as usize])));
    }
    compare(&cases);
}

#[test]
fn invalid_geometry_is_rejected_with_a_reason() {
    let fault = |text: &str| {
        let fault = text.parse::<Geometry>().expect_err(text);
        format!("{}\n  hint: {}", fault.message, fault.hint)
    };
    let texts = [
        "",
        "x",
        "big",
        "100x",
        "0x5",
        "70000",
        "10.5x3",
        "100x100+5+5",
        "100x100##",
        "100x100!^",
        "100#",
        "50%#",
        "100x100#>",
        "10x10@",
        "100@!",
        "50%@",
        "1..5%",
        "99999%",
        "100x100><",
        "-5x5",
        "１００",
        "%",
    ];
    let told: Vec<_> = texts.into_iter().filter(|text| *text != "100x").map(fault).collect();
    insta::assert_snapshot!(told.join("\n"));
    assert_eq!("100x".parse::<Geometry>(), "100".parse::<Geometry>(), "Paperclip writes it so");
    assert_eq!(" 100X50 > ".replace(' ', "").parse::<Geometry>(), "100x50>".parse::<Geometry>());
}
