//! Vectors that Java wrote.

#![allow(dead_code, reason = "each test uses some of them")]

pub const SOFA: &str = include_str!("../../../../conformance/hessian/vectors/sofa.txt");
pub const SOFA4: &str = include_str!("../../../../conformance/hessian/vectors/sofa4.txt");
pub const CAUCHO: &str = include_str!("../../../../conformance/hessian/vectors/caucho.txt");
pub const LITE: &str = include_str!("../../../../conformance/hessian/vectors/hessian-lite.txt");

/// Name and bytes of each line.
pub fn vectors(text: &str) -> impl Iterator<Item = (&str, Vec<u8>)> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let mut fields = line.split('\t');
        let name = fields.next().expect("a line has a name");
        let hex = fields.next().expect("a line has bytes");
        let pairs = (0..hex.len()).step_by(2);
        let bytes = pairs
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"))
            .collect();
        (name, bytes)
    })
}

/// The bytes of the case `name`.
pub fn vector(text: &str, name: &str) -> Vec<u8> {
    let mut found = vectors(text).filter(|(each, _)| *each == name);
    found.next().unwrap_or_else(|| panic!("no vector {name}")).1
}
