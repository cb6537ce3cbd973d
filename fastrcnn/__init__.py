"""Fast R-CNN (Girshick, ICCV 2015) as plain functions on tensors. Imports no Ray and no storage."""
