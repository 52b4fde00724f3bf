"""A campaign of faults: audits are disturbed in every stage, resumed, and compared with one that nothing disturbed."""
