//! scratch
use e2e::ring4;
use e2e::ring4::Needs;

#[test]
fn two() {
    ring4::ring4(Needs { clusters: &["east", "west"], ..Needs::default() }, |lab, clusters| {
        for cluster in clusters {
            let t = std::time::Instant::now();
            println!("{}", cluster.kubectl(&["get", "all", "-A"])?);
            println!("{:?}", t.elapsed());
            println!("{}", cluster.kubectl(&["get", "endpointslices", "-A"])?);
        }
        println!("{:?}", lab.hosts());
        Ok(())
    });
}
