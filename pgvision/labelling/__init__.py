"""First boxes and masks for people who label: CVAT and Label Studio, in their own words.

`pgvision.labelling.cvat` is a function that CVAT's tools load; `pgvision.labelling.label_studio`
reads label configs and writes predictions (`pgvision serve` answers Label Studio with it).
"""
