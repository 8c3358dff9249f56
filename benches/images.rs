//! The measured side of `benches/images.py`: makes a picture's styles again and again, with the step's own functions.
//!
//! `images FILE REPEATS FOLDER STYLE=GEOMETRY…` prints the CPU milliseconds of one round, and leaves the results of the last.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods, reason = "a program of its own")]

use afterload::config::ImageLimits;
use afterload_image_resize::{OutputFormat, OutputSpec, RenderPlan, RenderedImage, inspect_image, render_images};

fn styles(args: &[String]) -> Vec<OutputSpec> {
    let style = |arg: &String| {
        let (name, geometry) = arg.split_once('=').expect("NAME=GEOMETRY");
        let geometry = geometry.parse().expect("a geometry");
        OutputSpec { name: name.into(), geometry, format: OutputFormat::Jpeg, quality: 80, background: None }
    };
    args.iter().map(style).collect()
}

fn round(bytes: &[u8], wanted: Vec<OutputSpec>) -> Vec<RenderedImage> {
    let limits = ImageLimits::default();
    let inspected = inspect_image(bytes, &limits).unwrap();
    let plan = RenderPlan::new(&inspected, wanted, false, &limits).unwrap();
    let mut pictures = Vec::new();
    let each = |picture| {
        pictures.push(picture);
        Ok(())
    };
    render_images(&inspected, bytes, plan, &limits, &|| Ok(()), each).unwrap();
    pictures
}

/// User and system time of this process with all its threads, in milliseconds.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) * 10.0
}

fn main() {
    let args: Vec<_> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [file, repeats, folder, rest @ ..] = args.as_slice() else {
        println!("run `python3 benches/images.py`");
        return;
    };
    let bytes = std::fs::read(file).unwrap();
    let repeats: u32 = repeats.parse().unwrap();
    let mut pictures = round(&bytes, styles(rest));
    let before = cpu();
    for _ in 0..repeats {
        pictures = round(&bytes, styles(rest));
    }
    println!("{}", (cpu() - before) / f64::from(repeats));
    for picture in pictures {
        let name = format!("{}.{}", picture.name, picture.format.file_extension());
        std::fs::write(std::path::Path::new(folder).join(name), picture.bytes).unwrap();
    }
}
