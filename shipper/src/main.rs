//! The command line of the shipper.

fn main() -> std::process::ExitCode {
    towline::cli::main()
}
